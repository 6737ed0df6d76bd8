"""Seconds and memory of the whole train.py on a study of FLUX's size: measures, probes, nulls, baselines, report.

    python tests/benchmarks/train.py                                   48 cells, 200 images, all cores, on the CPU
    python tests/benchmarks/train.py --device cuda                     trainer=gpu
    python tests/benchmarks/train.py --cells 8 --cores 1,2,4           the same work on fewer cores
    python tests/benchmarks/train.py --cells 8 --cores 2 --busy 1      beside one process that never rests

The study (`full_study.py`) is made once and kept; train.py is called as a user calls it, in a process of its own. A
number of cores is set by affinity alone: that the right number of threads is used is what is tried.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "benchmarks")]

from full_study import Size, some_cells, write_study  # noqa: E402

from badhands.home import OUTPUTS  # noqa: E402

SPIN = "while True: pass"


def train(
    study: Path, size: Size, device: str, cores: list[int] | None, busy: int, more: list[str], keep: Path | None
) -> dict[str, float]:
    """One call of train.py: seconds of each stage and of the whole process, peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "model=flux_dev", f"study={study}", "labels.match=[]", "referee=null", "logger=none", "strips=0",
            f"capture.blocks=[{','.join(size.blocks)}]", f"capture.timesteps=[{','.join(map(str, size.timesteps))}]",
            f"trainer={'gpu' if device == 'cuda' else 'cpu'}", f"hydra.run.dir={folder}/run", *more,
        ]  # fmt: skip
        environment = {**os.environ, "BADHANDS_OUTPUTS": folder, "PYTHONPATH": str(ROOT / "src") + _others()}
        pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
        neighbours = [subprocess.Popen([*pinned, sys.executable, "-c", SPIN]) for _ in range(busy)]
        begin = time.perf_counter()
        try:
            command = [*pinned, sys.executable, str(ROOT / "train.py"), *overrides]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            error = process.stderr.read().decode() if process.stderr else ""
            _, status, used = os.wait4(process.pid, 0)
        finally:
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.wait()
        total = time.perf_counter() - begin
        if status:
            raise SystemExit(f"train.py failed:\n{error[-3000:]}")
        run = json.loads((Path(folder) / "run" / "run.json").read_text())
        if keep is not None:
            name = f"{device}_{len(size.blocks)}x{len(size.timesteps)}_{len(cores or [])}cores_{busy}busy"
            shutil.copytree(Path(folder) / "run" / "tables", keep / name, dirs_exist_ok=True)
            shutil.copy(Path(folder) / "run" / "run.json", keep / name)
        for profile in sorted((Path(folder) / "run").glob("profile_*.txt")):
            print(profile.name, profile.read_text()[:6000], sep="\n")
    stages = {stage["name"]: stage["seconds"] for stage in run["stages"] if stage["seconds"] > 0.05}
    return {
        **stages, "rest": total - sum(stages.values()), "all": total, "processor": used.ru_utime + used.ru_stime,
        "peak GB": used.ru_maxrss / 1e6,
    }  # fmt: skip


def _others() -> str:
    return os.pathsep + os.environ["PYTHONPATH"] if os.environ.get("PYTHONPATH") else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--cells", type=int, default=48)
    parser.add_argument("--of-cells", type=int, help="cells of the study, when not all of them are used")
    parser.add_argument("--width", type=int, default=3072)
    parser.add_argument("--folder", type=Path, default=OUTPUTS / "benchmarks" / "studies")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cores", default="", help="numbers of cores, one run each, e.g. 1,2,4")
    parser.add_argument("--busy", type=int, default=0, help="processes beside it that never rest, on the same cores")
    parser.add_argument("--keep", type=Path, help="a folder for the runs' tables and stages")
    parser.add_argument("more", nargs="*", help="overrides for train.py")
    options = parser.parse_args()
    blocks, timesteps = some_cells(options.cells)
    size = Size(images=options.images, width=options.width, blocks=blocks, timesteps=timesteps)
    whole = replace(size, blocks=some_cells(options.of_cells or options.cells)[0])
    study = options.folder / f"i{size.images}_c{len(whole.blocks)}x{len(timesteps)}_d{size.width}"
    gigabytes = write_study(study, whole, "cuda" if torch.cuda.is_available() else "cpu")
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    tokens = size.images * (size.hand + size.other)
    print(f"{device}; python {platform.python_version()}, torch {torch.__version__}; {size.images} images, "
          f"{tokens:,} tokens ({size.images * size.hand:,} of hands), {len(blocks) * len(timesteps)} cells of "
          f"{size.width} channels, study of {gigabytes:.2f} GB", flush=True)  # fmt: skip
    allowed = sorted(os.sched_getaffinity(0))
    rounds = [int(part) for part in options.cores.split(",") if part]
    for count in rounds or [0]:
        if count > len(allowed):
            print(f"{count} cores: there are {len(allowed)}")
            continue
        found = train(study, size, options.device, allowed[:count] or None, options.busy, options.more, options.keep)
        named = f"{count or len(allowed)} cores" + (f", {options.busy} busy neighbours" if options.busy else "")
        print(f"{named}: " + ", ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
