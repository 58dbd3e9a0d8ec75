"""Delivery: one build becomes a release, and the same bytes are deployed to every stage.

The verbs of ``python -m infra.delivery`` are make targets: ``package``, ``plan``, ``deploy``,
``smoke``, ``rollback``, ``destroy``, ``bootstrap``. What stands where in the bucket for artifacts::

    artifacts/<sha256>.<suffix>       packed functions and the state machine's definition, by content
    releases/<version>/release.json   what a release is made of, with template.yaml beside it
    deployments/<stack>/<time>-…json  who deployed what, when, over what, with which parameters

docs/deploying.md is the guide.
"""
