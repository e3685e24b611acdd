# `make quickstart` shows what this is, `make test` shows that it works. Both set up .venv first.

TASK ?= RoboRenForce-Gym-HalfCheetah-PPO
VLA_TASK ?= RoboRenForce-Tabletop-Reach-BC
RL_TASK ?= RoboRenForce-Tabletop-Reach-VLAPPO
DEMOS ?= data/tabletop_reach
# Test processes; each uses one thread, and a file of tests stays in one of them.
JOBS ?= 2
PY := .venv/bin/python
# Import rules are checked for all packages, also for those whose simulator is not installed.
SOURCES := source/RoboRenForce:source/tasks/RRF_gym:source/tasks/RRF_mjlab:source/tasks/RRF_d4rl:source/tasks/RRF_tabletop
# MuJoCo chooses its renderer when it is imported; without a display only an off-screen one works.
export MUJOCO_GL ?= egl

.DEFAULT_GOAL := help
.PHONY: help setup quickstart quickstart-vla quickstart-rl test test-fast test-long lint type format bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' Makefile

setup: ## make .venv with the core and RRF_gym
	@./setup_ext.sh --extras export RRF_gym

quickstart: setup ## train, evaluate, film and export HalfCheetah with PPO on the CPU
	$(PY) scripts/renforce/train_gym.py --task $(TASK)
	$(PY) scripts/renforce/play_gym.py --task $(TASK) --video --export
	@printf '\nNext:\n  %s\n  %s\n  %s\n' \
	  '.venv/bin/rrf list                                                     all tasks' \
	  '.venv/bin/rrf train --task RoboRenForce-Gym-Walker2d-PPO env.num_envs=32   another robot' \
	  '.venv/bin/rrf doctor                                                   what this machine can do'

quickstart-vla: ## record demonstrations, clone a policy of pixels and language, exchange its instructions
	@./setup_ext.sh --extras vla RRF_tabletop
	$(PY) scripts/data/collect_demos.py --task $(VLA_TASK) --num_episodes 200 --noise 0.3 --output $(DEMOS) --resume \
	  env.expert.speed=0.6
	$(PY) scripts/vla/pretrain/train_single_gpu.py --task $(VLA_TASK) --dataset_path $(DEMOS)
	$(PY) scripts/vla/play.py --task $(VLA_TASK) --episodes 100 --video
	$(PY) scripts/vla/play.py --task $(VLA_TASK) --episodes 100 env.exchange=block
	@printf '\nThe last line is of the same scenes, each asked for another block. Next: docs/vla/overview.md\n'

quickstart-rl: ## clone a policy from few and noisy demonstrations, and improve it by rewards
	@./setup_ext.sh --extras vla RRF_tabletop
	$(PY) scripts/data/collect_demos.py --task $(VLA_TASK) --num_episodes 80 --noise 0.3 --output $(DEMOS)_noisy --resume \
	  env.expert.speed=0.6 env.expert.noise=0.3
	$(PY) scripts/vla/pretrain/train_single_gpu.py --task $(VLA_TASK) --dataset_path $(DEMOS)_noisy \
	  --experiment_name noisy_clone epochs=40 policy.backbone.shift=0
	@run=$$(ls -td logs/RFRL/noisy_clone/*/ | head -n 1) && set -x && \
	  $(PY) scripts/vla/play.py --target $$run --task $(RL_TASK) --episodes 100 && \
	  $(PY) -m RoboRenForce.cli train --task $(RL_TASK) algorithm.init_from=$$run --num_envs 128
	$(PY) -m RoboRenForce.cli play --task $(RL_TASK) --episodes 100 --video

test: ## set up and run every test that needs no GPU, learning suite included
	@./setup_ext.sh --extras test,export,envpool,vla RRF_gym RRF_mjlab RRF_d4rl RRF_tabletop
	$(PY) -m pytest -q -n $(JOBS) --dist loadfile -m "not gpu and not long"

test-long: ## the tests that `make test` has no time for
	@./setup_ext.sh --extras test,export,envpool,vla RRF_gym RRF_mjlab RRF_d4rl RRF_tabletop
	$(PY) -m pytest -q -n $(JOBS) --dist loadfile -m "long and not gpu"

test-fast: ## the tests that take seconds each
	@./setup_ext.sh --extras test,export,envpool,vla RRF_gym RRF_tabletop
	$(PY) -m pytest -q -n $(JOBS) --dist loadfile -m "not gpu and not slow and not learning and not long"

lint: ## style, spelling, layers
	@./setup_ext.sh --extras test,dev,export,envpool,vla RRF_gym
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib
	PYTHONPATH=$(SOURCES) .venv/bin/lint-imports

type: ## static types of the core
	@./setup_ext.sh --extras test,dev,export,envpool,vla RRF_gym
	$(PY) -m pyright --pythonpath $(PY)

format: ## rewrite the code in the house style
	@./setup_ext.sh --extras test,dev,export,envpool,vla RRF_gym
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: ## measure against peers; writes benchmarks/results/*.json
	@./setup_ext.sh --extras test,dev,bench,export,envpool RRF_gym
	$(PY) benchmarks/ppo_cpu_vs_sb3.py

clean: ## remove .venv and caches; logs stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find source scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
