"""Time one PPO update of ours against those of releases of rsl_rl, on synthetic rollouts of one size.

    python benchmarks/ppo_learner_vs_rsl_rl.py --peer_site 5.4.2=FOLDER --peer_site 5.5.1=FOLDER

Size of a Go1 velocity task: 4,096 environments x 24 steps, 5 epochs x 4 mini-batches, 512-256-128 ELU, 48/72
observations. Each variant has a process of its own, one after the other, is warmed up and timed over `--repeats` whole
updates with a device synchronization around each. Releases of rsl_rl are measured as they are by default, with their
models compiled, and from 5.5 on in mixed precision too (`rsl_rl_peer.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import rsl_rl_peer
import torch
from peer_scripts import run_child, write_rates
from RoboRenForce import algorithms, components, networks
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from tensordict import TensorDict

HIDDEN = [512, 256, 128]
OURS: dict[str, dict[str, str]] = {
    "ours_tf32": {"precision": "tf32"},
    "ours_bf16": {"precision": "bf16"},
    "ours_tf32_eager": {"precision": "tf32", "cuda_graph": "off", "compile": "off"},
    "ours_fp32": {"precision": "fp32"},
}
SHARED = ("num_envs", "num_steps", "actor_obs", "critic_obs", "actions", "warmup", "repeats", "device")
"""Arguments that every variant gets."""


def make_spec(args: argparse.Namespace) -> EnvSpec:
    groups = {"actor": (args.actor_obs,), "critic": (args.critic_obs,)}
    return EnvSpec(
        "synthetic", args.num_envs, groups, ActionSpec("continuous", args.actions), 1000, ("final_observations",)
    )


def observations(spec: EnvSpec, device: torch.device) -> TensorDict:
    groups = {name: torch.randn(spec.num_envs, *shape, device=device) for name, shape in spec.obs_groups.items()}
    return TensorDict(groups, batch_size=[spec.num_envs])


def outcome(spec: EnvSpec, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw rewards, dones and time-outs at the rates of a walking robot."""
    done = torch.rand(spec.num_envs, device=device) < 0.01
    return (
        torch.randn(spec.num_envs, device=device),
        done.long(),
        done & (torch.rand(spec.num_envs, device=device) < 0.5),
    )


def make_ours(spec: EnvSpec, device: torch.device, steps: int, **overrides: object) -> algorithms.PPO:
    def mlp() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=HIDDEN, activations="ELU")

    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=mlp()),
        critic_cfg=components.VNetworkCfg(backbone_cfg=mlp()),
    )
    context = algorithms.RunContext(spec=spec, device=device, rollout_steps=steps)
    return algorithms.PPOCfg(shuffle="once", **overrides).build(policy=policy, context=context)


def make_rsl_rl(name: str, spec: EnvSpec, device: torch.device, steps: int) -> Any:
    from rsl_rl.algorithms import PPO

    model = {
        "class_name": "rsl_rl.models:MLPModel",
        "hidden_dims": HIDDEN,
        "activation": "elu",
        "obs_normalization": True,
    }
    gaussian = {"class_name": "rsl_rl.modules.distribution:GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    cfg = {
        "algorithm": {"class_name": "rsl_rl.algorithms:PPO", "rnd_cfg": None, "symmetry_cfg": None},
        "actor": model | {"distribution_cfg": gaussian},
        "critic": dict(model),
        "obs_groups": {"actor": ["actor"], "critic": ["critic"]},
        "num_steps_per_env": steps,
        "multi_gpu": None,
    }
    rsl_rl_peer.switch_on(cfg, name)
    env = SimpleNamespace(num_envs=spec.num_envs, num_actions=spec.action.dim, unwrapped=None)
    return PPO.construct_algorithm(observations(spec, device), env, cfg, str(device))


def collect_ours(algorithm: algorithms.PPO, spec: EnvSpec, device: torch.device, steps: int) -> None:
    obs = observations(spec, device)
    for _ in range(steps):
        before, out = obs, algorithm.act(obs)
        reward, done, time_outs = outcome(spec, device)
        obs = observations(spec, device)
        extras = {"terminated": (done != 0) & ~time_outs, "time_outs": time_outs, "log": {}, "final_observations": obs}
        step = obs, reward, done, extras
        algorithm.process_env_step(algorithms.Transition.of_step(before, out.action, out.record, step))


def collect_rsl_rl(algorithm: Any, spec: EnvSpec, device: torch.device, steps: int) -> None:
    with torch.inference_mode():
        obs = observations(spec, device)
        for _ in range(steps):
            algorithm.act(obs)
            reward, done, time_outs = outcome(spec, device)
            obs = observations(spec, device)
            algorithm.process_env_step(obs, reward, done, {"time_outs": time_outs})
        algorithm.compute_returns(obs)


def time_updates(
    collect: Callable[[], None], update: Callable[[], object], device: torch.device, warmup: int, repeats: int
) -> dict:
    """Time collecting (networks only) and updating in milliseconds: medians and all samples."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    samples: dict[str, list[float]] = {"collect_ms": [], "update_ms": []}
    for repeat in range(warmup + repeats):
        for name, call in (("collect_ms", collect), ("update_ms", update)):
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            if repeat >= warmup:
                samples[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: round(statistics.median(values), 3) for name, values in samples.items()}
    return medians | {f"{name}_all": [round(v, 3) for v in values] for name, values in samples.items()}


def count_kernels(update: Callable[[], object]) -> int:
    """Count the CUDA kernels of one update, replayed ones included."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        update()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Measure one variant in this process."""
    device, spec = torch.device(args.device), make_spec(args)
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True  # rsl_rl as mjlab runs it
    if name in OURS:
        algorithm, collect = make_ours(spec, device, args.num_steps, **OURS[name]), collect_ours
    else:
        algorithm, collect = make_rsl_rl(name, spec, device, args.num_steps), collect_rsl_rl
    result = time_updates(
        lambda: collect(algorithm, spec, device, args.num_steps), algorithm.update, device, args.warmup, args.repeats
    )
    if device.type == "cuda":
        result["kernels_per_update"] = count_kernels(algorithm.update)
    return result


def compare(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Add to each variant how much faster its update is than the first and than the fastest of rsl_rl."""
    peers = {name: r["update_ms"] for name, r in found.items() if "error" not in r and rsl_rl_peer.is_variant(name)}
    if not peers:
        return {}
    first, fastest = next(iter(peers)), min(peers, key=lambda name: peers[name])
    for result in found.values():
        if "error" not in result:
            result["speedup"] = round(peers[first] / result["update_ms"], 2)
            result["speedup_over_fastest_peer"] = round(peers[fastest] / result["update_ms"], 2)
    return {"fastest_peer": fastest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--num_envs", type=int, default=4096)
    parser.add_argument("--num_steps", type=int, default=24)
    parser.add_argument("--actor_obs", type=int, default=48)
    parser.add_argument("--critic_obs", type=int, default=72)
    parser.add_argument("--actions", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=20)
    rsl_rl_peer.add_peer_site(parser)
    parser.add_argument("--variants", default="", help="comma-separated; default: all of the peers and of ours")
    parser.add_argument("--note", default="", help="conditions of the measurement, for the page")
    parser.add_argument("--output", default="benchmarks/results/ppo_learner.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        Path(args.child).write_text(json.dumps(measure(args, args.variant)))
        return

    sites = rsl_rl_peer.sites_of(args.peer_site)
    del args.peer_site  # paths of this machine
    names = args.variants.split(",") if args.variants else [*rsl_rl_peer.variants_of(sites), *OURS]
    environments = {name: {} if name in OURS else rsl_rl_peer.environment_of(name, sites) for name in names}
    same = [word for name in SHARED for word in (f"--{name}", str(getattr(args, name)))]
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = result = run_child(__file__, ["--variant", name, *same], environments[name])
        print(name, result.get("error") or {key: result[key] for key in ("collect_ms", "update_ms")}, flush=True)
        # after every variant: what was measured stays if the time of the call ends
        write_rates(args, "ppo_learner", found, compare(found))
    print(json.dumps({name: result.get("speedup") for name, result in found.items()}))


if __name__ == "__main__":
    main()
