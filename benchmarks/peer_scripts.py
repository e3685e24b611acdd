"""Run single-file training scripts of other projects unchanged, for the benchmarks that compare with them.

The scripts are read from paths that the user gives; none of their code is here. What surrounds an algorithm is answered
from here instead of by a package: arguments (tyro, pyrallis), logging (wandb), old environment interfaces (the infos of
Gymnasium before 1.0, `gym`, `d4rl`). The statements between sampling a batch and the next environment step are the
script's own.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
"""Environment variables of every process that is measured; networks this small gain nothing from more threads."""


class PeerScript:
    """A script whose last statement is `if __name__ == "__main__":` with one training loop in it.

    Args:
        path: The script.
        arguments: Field values for the dataclass that the script would fill from its command line.
    """

    def __init__(self, path: str | Path, arguments: Mapping[str, Any]) -> None:
        self.path = Path(path).resolve()
        self._tree = ast.parse(self.path.read_text(encoding="utf-8"))
        module = stand_in("__main__", __file__=str(self.path))  # torch.compile looks names up there
        self.namespace: dict[str, Any] = module.__dict__
        """Names that the script has defined so far."""
        sys.path[:0] = [str(self.path.parent), str(self.path.parent.parent)]
        answer_arguments(arguments)

    def run(self) -> None:
        """Run the whole script."""
        self._execute(self._tree.body)

    def run_until_loop(self) -> None:
        """Run everything above the training loop."""
        statements, loop = self._main()
        self._execute([*self._tree.body[:-1], *statements[: statements.index(loop)]])

    def updates(self, before: str) -> Callable[[range], None]:
        """Return the learning part of the training loop, its last `if` statement, as a loop over step numbers.

        Args:
            before: Source of the statements that give it a batch.
        """
        loop = self._main()[1]
        learning = next(node for node in reversed(loop.body) if isinstance(node, ast.If))
        repeated = ast.For(
            target=loop.target,
            iter=ast.Name("_steps", ast.Load()),
            body=[*ast.parse(before).body, learning],
            orelse=[],
        )
        module = ast.fix_missing_locations(ast.Module([repeated], []))
        code = compile(module, str(self.path), "exec", dont_inherit=True)

        def run(steps: range) -> None:
            self.namespace["_steps"] = steps
            exec(code, self.namespace)

        return run

    def _main(self) -> tuple[list[ast.stmt], ast.For]:
        """Return the statements under `if __name__ == "__main__":` and the training loop among them."""
        last = self._tree.body[-1]
        loops = [node for node in last.body if isinstance(node, ast.For)] if isinstance(last, ast.If) else []
        if not isinstance(last, ast.If) or not loops:
            raise ValueError(f"{self.path} has no training loop under `if __name__ == '__main__':`.")
        return last.body, loops[-1]

    def _execute(self, statements: list[ast.stmt]) -> None:
        exec(compile(ast.Module(statements, []), str(self.path), "exec", dont_inherit=True), self.namespace)


def stand_in(name: str, **members: Any) -> ModuleType:
    """Register a module with these members under that name in `sys.modules`."""
    module = ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module


def answer_arguments(values: Mapping[str, Any]) -> None:
    """Let `tyro.cli` and `pyrallis.wrap` fill a script's dataclass with these values; others keep their defaults."""

    def wrap() -> Callable[[Callable], Callable]:
        def decorate(function: Callable) -> Callable:
            return lambda: function(function.__annotations__["config"](**values))

        return decorate

    stand_in("tyro", cli=lambda cls: cls(**values))
    stand_in("pyrallis", wrap=wrap, dump=lambda *args, **kwargs: None)


def record_wandb(on_log: Callable[[dict[str, Any]], None]) -> None:
    """Register a wandb that passes every logged dictionary to `on_log` and does nothing else."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    stand_in(
        "wandb",
        init=nothing,
        finish=nothing,
        mark_preempting=nothing,
        run=SimpleNamespace(save=nothing),
        log=lambda values, *args, **kwargs: on_log(values),
    )


# ------------------------------------------------------------------------------------------------ processes and files


def run_child(script: str, words: Sequence[str], environment: Mapping[str, str], python: str = "") -> dict[str, Any]:
    """Run `python script --child FILE words` and read the file; one process per variant, so that none affects another.

    Returns:
        Its JSON, or `{"error": the end of its output}`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [python or sys.executable, str(Path(script).resolve()), "--child", str(path), *words]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | ONE_THREAD | dict(environment),
        )
        if done.returncode or not path.exists():
            return {"error": done.stdout[-3000:]}
        return json.loads(path.read_text())


def environment_with(site: str) -> dict[str, str]:
    """Return the environment of a process that finds the packages in a folder before those that are installed."""
    path = os.pathsep.join(filter(None, [site and str(Path(site).resolve()), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path} if path else {}


def write_rates(args: Any, name: str, found: Mapping[str, dict[str, Any]], columns: Mapping[str, Any]) -> None:
    """Write a result file of updates per second: `found` are the variants so far, `columns` are further columns."""
    from report import environment_report, write_json

    data = {"benchmark": name, "arguments": shown_arguments(vars(args))}
    data["results"] = {variant: result for variant, result in found.items() if "error" not in result}
    data |= {**columns, **environment_report(), "command": shown_command(sys.argv)}
    data["hardware"]["torch_threads"] = 1  # of every variant
    if args.note:
        data["note"] = args.note
    failed = {
        variant: result["error"].strip().splitlines()[-1] for variant, result in found.items() if "error" in result
    }
    write_json(args.output, data | ({"failed": failed} if failed else {}))


def shown_command(argv: Sequence[str]) -> str:
    """Return the command of a benchmark without local folders and without the note."""
    script, *words = argv
    if "--note" in words:
        at = words.index("--note")
        del words[at : at + 2]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *map(_without_folder, words)])


def shown_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments but paths, the note and empty ones."""

    def is_shown(key: str, value: Any) -> bool:
        return bool(value) and key != "note" and not (isinstance(value, str) and "/" in value)

    return {key: value for key, value in arguments.items() if is_shown(key, value)}


def _without_folder(word: str) -> str:
    name, equals, path = word.rpartition("=")  # a path may stand behind a name, as in 5.5.1=/folder
    return f"{name}{equals}{Path(path).name}" if "/" in path else word


# ------------------------------------------------------------------------------------------------ online: Gymnasium


def infos_of_old_gymnasium(on_step: Callable[[np.ndarray, list[dict[str, float]]], None]) -> None:
    """Give `gymnasium.vector.SyncVectorEnv` the reset and the infos that it had before 1.0, which the scripts read.

    An environment is reset in the step that ends its episode; `final_observation` holds the last observations and
    `final_info` the infos, one entry an environment, None where no episode ended.

    Args:
        on_step: Called after every step with the rewards and the `{"r": return, "l": length}` of ended episodes.
    """
    import gymnasium
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    class OldSyncVectorEnv(SyncVectorEnv):
        def __init__(self, env_fns: Iterable[Callable[[], gymnasium.Env]]) -> None:
            super().__init__(list(env_fns), autoreset_mode=AutoresetMode.SAME_STEP)

        def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            obs, rewards, terminations, truncations, infos = super().step(actions)
            done = terminations | truncations
            episodes = []
            if done.any():
                infos["final_observation"] = infos.pop("final_obs")
                ended = infos.pop("final_info")["episode"]
                details = [{key: float(ended[key][i]) for key in "rl"} if done[i] else None for i in range(len(done))]
                infos["final_info"] = [entry and {"episode": entry} for entry in details]
                episodes = [entry for entry in details if entry]
            on_step(rewards, episodes)
            return obs, rewards, terminations, truncations, infos

    gymnasium.vector.SyncVectorEnv = OldSyncVectorEnv


def modules_of_old_tensordict() -> None:
    """Let `tensordict.nn.TensorDictModule` drop outputs without a key, as it did when LeanRL was written."""
    import tensordict.nn
    import torchrl.data  # noqa: F401 - its classes derive from the original

    original = tensordict.nn.TensorDictModule

    def module(function: Callable, in_keys: list[str], out_keys: list[str]) -> Any:
        def kept(*inputs: Any) -> Any:
            outputs = function(*inputs)[: len(out_keys)]
            return outputs[0] if len(outputs) == 1 else outputs

        return original(kept, in_keys=in_keys, out_keys=out_keys)

    tensordict.nn.TensorDictModule = module


# ------------------------------------------------------------------------------------------------ offline: gym and d4rl


def gym_with_dataset(data: Mapping[str, np.ndarray]) -> None:
    """Register a `gym` and a `d4rl` that know one data set; its environment ends every episode at once.

    Args:
        data: Transitions with the keys of D4RL: `observations`, `actions`, `rewards`, `next_observations`, `terminals`
            and `timeouts`, `(N, ...)`.
    """
    state, action = data["observations"].shape[1], data["actions"].shape[1]

    class DatasetEnv:
        observation_space = SimpleNamespace(shape=(state,), seed=lambda seed: None)
        action_space = SimpleNamespace(
            shape=(action,), high=np.ones(action, np.float32), low=-np.ones(action, np.float32), seed=lambda seed: None
        )
        _max_episode_steps = 1000

        def seed(self, seed: int) -> None:
            pass

        def reset(self) -> np.ndarray:
            return np.zeros(state, np.float32)

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict]:
            return self.reset(), 0.0, True, {}

        def get_dataset(self) -> dict[str, np.ndarray]:
            return {key: values for key, values in data.items() if key != "next_observations"}

        def get_normalized_score(self, score: float) -> float:
            return score

    gym = stand_in("gym", Env=DatasetEnv, make=lambda name: DatasetEnv())
    gym.wrappers = SimpleNamespace(
        TransformObservation=lambda env, function: env, TransformReward=lambda env, function: env
    )
    kept = ~data["timeouts"].astype(bool)  # d4rl leaves out the steps that a time limit cut
    stand_in(
        "d4rl",
        qlearning_dataset=lambda env: {key: values[kept] for key, values in data.items() if key != "timeouts"},
    )
