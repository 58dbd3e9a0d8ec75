"""A rollout in the registry is seen in the answers of the predict function."""

from millrace.aws.clients import client
from millrace.registry.rollouts import open_rollouts
from millrace.serving.identity import Role, describe
from millrace.serving.routing import ENTITY_HEADER, fraction
from millrace.spec import RolloutSection
from tests.fakes import cloud
from tests.fakes.gateway import Reply
from tests.fakes.onnx_models import crown
from tests.integration.predict.conftest import ROW, Serving
from tests.until import until


def test_a_rollout_s_entities_are_answered_by_its_version(serving: Serving) -> None:
    serving.crown(1)
    crown(serving.stack.registry, serving.put, 2, promoted=False)
    rollouts = open_rollouts(client("dynamodb"), cloud.TABLE)
    plan = RolloutSection.model_validate({"strategy": "canary", "steps": [50]})
    assert serving.predict({"rows": [ROW]}).json["version"] == 1
    begun = rollouts.start(rollout_id="churn-2", model="churn", version=2, plan=plan, actor="ada")
    rollouts.set_traffic(begun.rollout_id, begun.attempt, 0)
    entities = [f"customer-{n}" for n in range(12)]
    moved = {e for e in entities if fraction("churn-2", e.encode()) < 0.5}
    assert 0 < len(moved) < len(entities)

    def versions() -> dict[str, int]:
        serving.now += 60
        return {e: answer(e).json["version"] for e in entities}

    def answer(entity: str) -> Reply:
        return serving.predict({"rows": [ROW]}, headers={ENTITY_HEADER: entity})

    # The challenger is loaded behind the answers.
    until(lambda: 2 in versions().values())

    assert versions() == {e: 2 if e in moved else 1 for e in entities}
    told = describe(answer(next(iter(moved))).json["prediction_id"])
    record = serving.stack.registry.get_serving("churn")
    assert (told.role, told.number) == (Role.CHALLENGER, record.sequence)
