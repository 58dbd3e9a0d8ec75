# Millrace: every way of working with this repository is a target here.
# Each needs nothing but a Python 3.13 on this machine (infra/build/find-python says where it looks).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
# The targets share one environment, one build folder and two cores.
.NOTPARALLEL:

# Settings of the caller's shell that would leak into the tools.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE VIRTUAL_ENV

PYTHON := .venv/bin/python
UV := .venv/bin/uv
SAM := .tools/sam/bin/python -m samcli
# Tests run on two workers (WORKERS=0: in one process); what shares a stack stays on one of them.
WORKERS ?= 2
PYTEST := $(PYTHON) -m pytest
PYTESTS := $(PYTEST) -n $(WORKERS)
REQUIREMENTS := infra/build/requirements
# What packs, deploys and removes whole releases, a quarter of an hour of it.
DELIVERING := tests/e2e/test_delivery.py tests/e2e/test_pipelines.py
# Prowler deploys a stack of its own, so it has a target of its own: scan-deployed.
PROWLER := tests/infra/test_scan_deployed.py
SCANS := $(filter-out $(PROWLER),$(sort $(wildcard tests/infra/test_scan_*.py)))

export SAM_CLI_TELEMETRY := 0

.PHONY: help
help: ## List the targets
	@echo 'Millrace: make TARGET'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## Make the environments in .venv and .tools (quick when nothing changed)
	@infra/build/venv .venv $(REQUIREMENTS)/dev.txt --project
	@infra/build/venv .tools/sam $(REQUIREMENTS)/sam.txt
	@infra/build/venv .tools/cloud $(REQUIREMENTS)/cloud.txt
	@infra/build/venv .tools/runtime $(REQUIREMENTS)/runtime.txt
	@infra/build/venv .tools/iam $(REQUIREMENTS)/iam.txt

.PHONY: setup-localstack
setup-localstack: setup ## Make the environment of the second engine, LocalStack as a process
	@infra/build/venv .tools/localstack $(REQUIREMENTS)/localstack.txt
	@infra/localstack/index .tools/localstack

.PHONY: setup-ci
setup-ci: setup ## Make the environment of what checks the pipeline definitions
	@infra/build/venv .tools/ci $(REQUIREMENTS)/ci.txt

.PHONY: ci-install
ci-install: setup ## Put a pipeline where its provider looks: PROVIDER=github, gitlab, circleci or jenkins (FORCE=1 replaces yours)
	@$(PYTHON) -m infra.ci.install "$(PROVIDER)" $(if $(FORCE),--force)

.PHONY: setup-clients
setup-clients: setup ## Make the environment of the public Open Inference clients, Triton's and KServe's among them
	@infra/build/venv .tools/clients $(REQUIREMENTS)/clients.txt

.PHONY: setup-fuzz
setup-fuzz: setup ## Make the environment of schemathesis and of a generator of clients
	@infra/build/venv .tools/fuzz $(REQUIREMENTS)/fuzz.txt

.PHONY: setup-scan
setup-scan: setup setup-node ## Make the environment of the scanners (500 MB, most of it semgrep)
	@infra/build/venv .tools/scan $(REQUIREMENTS)/scan.txt
	@infra/build/venv .tools/audit $(REQUIREMENTS)/audit.txt

.PHONY: setup-container
setup-container: setup ## Make the environment of the container, and that of what checks its definition
	@infra/build/venv .tools/serve $(REQUIREMENTS)/serve.txt
	@infra/build/venv .tools/container $(REQUIREMENTS)/container.txt

.PHONY: setup-peers
setup-peers: setup ## Make the environments of the servers that the bench measures beside ours (1 GB)
	@infra/build/venv .tools/peers-fastapi $(REQUIREMENTS)/peers-fastapi.txt
	@infra/build/venv .tools/peers-mlserver $(REQUIREMENTS)/peers-mlserver.txt
	@infra/build/venv .tools/peers-bentoml $(REQUIREMENTS)/peers-bentoml.txt
	@infra/build/venv .tools/peers-mlflow $(REQUIREMENTS)/peers-mlflow.txt

.PHONY: setup-oracles
setup-oracles: setup ## Make the environment of Evidently and NannyML, which the monitoring statistics are held against (1 GB)
	@infra/build/venv .tools/oracles $(REQUIREMENTS)/oracles.txt

.PHONY: setup-node
setup-node: ## Install the tools that exist only for Node, where there is a Node
	@infra/build/node/install

.PHONY: demo
demo: setup build ## Deploy to the embedded cloud and follow real data to a prediction
	@$(PYTHON) -m infra.demo $(ARGS)

.PHONY: demo-drift
demo-drift: setup build ## Watch a model get worse, an alarm, one retraining and the recovery: a quarter of an hour, and a picture
	@$(PYTHON) -m infra.demo.drift $(ARGS)

.PHONY: test
test: check test-unit test-integration test-infra test-e2e ## Run the checks and every test that needs no Docker

.PHONY: test-unit
test-unit: setup ## Run the unit tests: no network, seconds (ARGS="-k word" narrows any test target)
	$(PYTESTS) tests/unit $(ARGS)

.PHONY: test-integration
test-integration: setup setup-clients setup-fuzz ## Run the real handlers on moto
	$(PYTESTS) tests/integration $(ARGS)

.PHONY: fuzz
fuzz: setup setup-fuzz ## Make more than 5,000 requests from the OpenAPI document, and 500 of each form to every pipeline
	$(PYTEST) tests/integration/whole/test_fuzz.py --fuzz $(ARGS)
	$(PYTEST) tests/unit/serving/test_truth.py --examples 500 $(ARGS)

.PHONY: test-infra
test-infra: setup setup-ci setup-scan setup-container build ## Check the template, roles, state machines and built artifacts; run the scanners
	$(PYTESTS) tests/infra --ignore $(PROWLER) $(ARGS)

.PHONY: scan
scan: setup setup-scan ## Run the scanners alone: checkov, asl-validator, bandit, semgrep (docs/security.md)
	$(PYTEST) $(SCANS) $(ARGS)

.PHONY: scan-deployed
scan-deployed: setup build ## Deploy to the embedded cloud and run Prowler on what was made (300 MB)
	@infra/build/venv .tools/prowler $(REQUIREMENTS)/prowler.txt
	$(PYTEST) $(PROWLER) $(ARGS)

.PHONY: audit
audit: setup ## Look every pinned package up in the database of known vulnerabilities (needs the network)
	@infra/build/venv .tools/audit $(REQUIREMENTS)/audit.txt
	@$(PYTHON) infra/scan/audit.py

.PHONY: test-e2e
test-e2e: setup setup-ci setup-clients build ## Deploy the template to the embedded cloud and use it (DELIVERY=off: without test-delivery)
	$(PYTESTS) tests/e2e $(if $(filter off,$(DELIVERY)),$(DELIVERING:%=--ignore %)) $(ARGS)

.PHONY: test-delivery
test-delivery: setup setup-ci setup-clients build ## Run the pipelines of CI, plan, deploy, roll back and destroy on the embedded cloud
	$(PYTEST) $(DELIVERING) $(ARGS)

.PHONY: test-aws
test-aws: setup setup-ci setup-clients ## Run the e2e tests on a deployed stack: STACK=name [REGION=…] (docs/testing.md says what they do to it)
	@test -n "$(STACK)" || { echo 'make test-aws runs on a stack that is deployed already: name it with STACK=name' >&2; exit 2; }
	$(PYTEST) tests/e2e --engine aws --stack "$(STACK)" $(if $(REGION),--region "$(REGION)") $(ARGS)

.PHONY: test-localstack
test-localstack: setup setup-ci setup-clients setup-localstack build ## Run the same e2e suite on LocalStack (RUNTIME=process or docker; default: Docker if there is one)
	$(PYTESTS) tests/localstack tests/e2e --engine localstack $(if $(RUNTIME),--runtime "$(RUNTIME)") $(ARGS)

.PHONY: check
check: setup ## Lint, check formatting and types, the committed OpenAPI, download addresses
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) infra/build/addresses.py
	$(PYTHON) infra/build/openapi.py --check

.PHONY: fmt
fmt: setup ## Format the code and mend what the linter can mend
	$(PYTHON) -m ruff check --fix-only --exit-zero .
	$(PYTHON) -m ruff format .

.PHONY: lock
lock: setup ## Compile the hash-pinned requirements (UPGRADE=1 takes newer versions)
	infra/build/lock $(if $(UPGRADE),--upgrade)

.PHONY: build
build: setup ## Build every function's artifact with `sam build`
	@mkdir -p .millrace
	@echo 'Building the functions (log: .millrace/build.log)'
	@$(SAM) build >.millrace/build.log 2>&1 || { cat .millrace/build.log; exit 1; }

# Delivery: variables given to make (STAGE=, RELEASE=, PARAMETERS=, …) reach the verbs through the
# environment, so that no value is a shell's to take apart. docs/deploying.md is the guide.
DELIVERY := $(PYTHON) -m infra.delivery

.PHONY: setup-delivery
setup-delivery:
	@infra/build/venv .venv $(REQUIREMENTS)/dev.txt --project
	@infra/build/venv .tools/sam $(REQUIREMENTS)/sam.txt

.PHONY: package
package: setup-delivery build ## Make a release of the build: packed and uploaded once (ARTIFACT_BUCKET=)
	@$(DELIVERY) package $(ARGS)

.PHONY: plan
plan: setup-delivery ## Say what a deployment would change (STAGE=staging RELEASE= PARAMETERS="Name=value")
	@$(DELIVERY) plan $(ARGS) || { code=$$?; [ $$code -eq 8 ] && [ -z "$${EXIT_CODE:-}" ] || exit $$code; }

.PHONY: deploy
deploy: setup-delivery ## Deploy a release with `sam deploy` (STAGE=staging RELEASE= PARAMETERS= YES=1)
	@$(DELIVERY) deploy $(ARGS)

.PHONY: smoke
smoke: setup-delivery ## Look at a deployed stage over HTTPS (STAGE=staging; prod trains with FULL=1 only)
	@$(DELIVERY) smoke $(ARGS)

.PHONY: rollback
rollback: setup-delivery ## Deploy the release before (STAGE=prod TO=version)
	@$(DELIVERY) rollback $(ARGS)

.PHONY: destroy
destroy: setup-delivery ## Remove a stage, say what stays, and prove it (STAGE=dev DATA=1)
	@$(DELIVERY) destroy $(ARGS)

.PHONY: bootstrap
bootstrap: setup-delivery ## Make a stage ready for CI (STAGE=staging PARAMETERS="Provider=GITHUB Repository=me/it")
	@$(DELIVERY) bootstrap $(ARGS)

.PHONY: bench
bench: setup setup-localstack build ## Measure what docs and README state, as ratios within one run
	$(PYTEST) tests/bench -m bench $(ARGS)

.PHONY: costs
costs: setup ## Say what a stage costs by the hour, at rest and by use (STAGE=dev|staging|prod)
	@$(PYTHON) -m infra.costs --stage $(or $(STAGE),dev) $(ARGS)

.PHONY: openapi
openapi: setup ## Write the committed OpenAPI document anew
	$(PYTHON) infra/build/openapi.py

.PHONY: clean
clean: ## Remove what was built; keep the environments and the state of the embedded cloud
	rm -rf .aws-sam .millrace/build-cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
