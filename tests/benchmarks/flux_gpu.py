"""Full-size FLUX on one GPU: what capture, compilation, replay, storage, watching and fitting cost.

    python tests/benchmarks/flux_gpu.py --out outputs/benchmarks/flux_gpu            about nine minutes on an H100
    python tests/benchmarks/flux_gpu.py --out outputs/flux --only watch,storage           some of the sections
    python tests/benchmarks/flux_gpu.py --out outputs/flux --rehearse                     the same code, tiny, on a CPU

FLUX.1-dev's architecture with random weights: times, memory and equality do not depend on what the weights say.
Sections run in order of importance; each is guarded, and results.json and table.md are written again at every row.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]

from flux_gpu_model import Setup, build  # noqa: E402

from badhands.diffusion.capture import capture  # noqa: E402

Rows = list[dict[str, Any]]


class Results:
    """Rows of one long table, printed and saved as they come."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about, self.rows = folder, about, []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, section: str, what: str, value: Any, unit: str = "", note: str = "") -> None:
        row = {"section": section, "what": what, "value": value, "unit": unit, "note": note}
        self.rows.append(row)
        print(f"[{section}] {what}: {_text(value)} {unit}{'  (' + note + ')' if note else ''}", flush=True)
        self.save()

    def save(self) -> None:
        (self.folder / "results.json").write_text(json.dumps({"about": self.about, "rows": self.rows}, indent=1))
        lines = [f"{key}: {value}  " for key, value in self.about.items()]
        lines += ["", "| section | what | value | unit | note |", "|---|---|---|---|---|"]
        for row in self.rows:
            lines.append("| " + " | ".join(map(_text, row.values())) + " |")
        (self.folder / "table.md").write_text("\n".join(lines) + "\n")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sync() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one run, the device idle before and after."""
    sync()
    start = time.perf_counter()
    run()
    sync()
    return time.perf_counter() - start


def peak_mib(run: Callable[[], Any]) -> float:
    """Highest device memory in use while `run` runs, above what was in use before."""
    if not torch.cuda.is_available():
        run()
        return 0.0
    sync()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    sync()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def interleaved(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Times of every variant, one run a round, in an order that turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(seconds(variants[name]))
    return times


def report_ratios(out: Results, section: str, times: dict[str, list[float]]) -> None:
    base = next(iter(times))
    for name, values in times.items():
        spread = f"median of {len(values)}, {min(values):.3f} to {max(values):.3f}"
        out.add(section, name, statistics.median(values), "s", spread)
        if name != base:
            ratios = [a / b for a, b in zip(values, times[base], strict=False)]
            spread = f"{min(ratios):.4f} to {max(ratios):.4f}"
            out.add(section, f"{name} / {base}", statistics.median(ratios), "", spread)


# Sections ------------------------------------------------------------------------------------------------------------


def variants(s: Setup) -> dict[str, Callable[[], Any]]:
    plain = lambda: s.latents([0])  # noqa: E731

    def captured(blocks: tuple[str, ...], timesteps: tuple[int, ...], tokens: int) -> Callable[[], Any]:
        def run() -> None:
            with capture(s.pipe, blocks, timesteps, s.tokens(tokens)):
                plain()

        return run

    return {
        "plain": plain,
        "capture 48 cells, 80 tokens": captured(s.post_blocks, s.post_timesteps, 80),
        "capture 48 cells, 300 tokens": captured(s.post_blocks, s.post_timesteps, 300),
        "capture all blocks x all steps, 300 tokens": captured(s.all_blocks, s.all_timesteps, 300),
    }


def generation(s: Setup, out: Results) -> None:
    """Seconds an image: plain, captured, everything kept."""
    s.latents([0])
    chosen = variants(s)
    for run in chosen.values():  # pinned memory is allocated at its first use
        seconds(run)
    report_ratios(out, "generation", interleaved(chosen, s.rounds))
    latent = s.latents([0])
    s.decode(latent)
    out.add("generation", "VAE decode of one image", seconds(lambda: s.decode(latent)), "s")
    out.add("generation", "latent is finite", bool(torch.isfinite(latent).all()))


def keep_everything(s: Setup, out: Results) -> None:
    """The usual recipe: a list of every block's whole output. On the device, then moved to the host."""

    def kept(to_host: bool) -> Callable[[], Any]:
        def run() -> None:
            store: list[torch.Tensor] = []
            blocks = [*s.pipe.transformer.transformer_blocks, *s.pipe.transformer.single_transformer_blocks]

            def keep(_module: Any, _args: Any, output: Any) -> None:
                store.append(output[1].cpu() if to_host else output[1].clone())

            handles = [block.register_forward_hook(keep) for block in blocks]
            try:
                s.latents([0])
            finally:
                for handle in handles:
                    handle.remove()

        return run

    plain = lambda: s.latents([0])  # noqa: E731
    torch.cuda.empty_cache() if torch.cuda.is_available() else None
    out.add("keep everything", "device memory", peak_mib(kept(False)), "MiB", "57 blocks x 20 steps")
    report_ratios(out, "keep everything", interleaved({"plain": plain, "clone on the device": kept(False)}, 2))
    gc.collect()
    out.add("keep everything", "moved to the host in the hook", seconds(kept(True)), "s", "one run")


def memory(s: Setup, out: Results) -> None:
    """Device memory is flat in the number of captured timesteps."""
    for steps in (s.spec.steps // 2, s.spec.steps):
        plain = peak_mib(lambda n=steps: s.latents([0], steps=n))
        for name, blocks in (("6 blocks", s.post_blocks), ("all blocks", s.all_blocks)):
            stated = []

            def run(n: int = steps, blocks: tuple[str, ...] = blocks, stated: list[int] = stated) -> None:
                with capture(s.pipe, blocks, range(1, n + 1), s.tokens(300)) as taken:
                    s.latents([0], steps=n)
                stated.append(taken.device_bytes)

            above = peak_mib(run) - plain
            note = f"stated by the capture: {stated[0] / 2**20:.1f} MiB"
            out.add("memory", f"{name} x {steps} timesteps, 300 tokens: device memory above plain", above, "MiB", note)


def synchronisation(s: Setup, out: Results) -> None:
    """Waits of the CPU for the device inside the step loop, counted in a profiler trace."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])

    def count(run: Callable[[], Any], save: Path | None = None) -> dict[str, int]:
        marks: list[Any] = []

        def before(*_: Any) -> None:
            marks.append(record_function("badhands.step"))
            marks[-1].__enter__()

        def after(*_: Any) -> None:
            marks[-1].__exit__(None, None, None)

        handles = [
            s.pipe.transformer.register_forward_pre_hook(before, prepend=True),
            s.pipe.transformer.register_forward_hook(after, always_call=True),
        ]
        try:
            with profile(activities=activities) as trace:
                run()
                sync()
        finally:
            for handle in handles:
                handle.remove()
        events = list(trace.events())
        loop = [e.time_range for e in events if e.name == "badhands.step" and str(e.device_type).endswith("CPU")]
        # From the first block of the second step: the first step of a generation reads the schedule once.
        begin, end = sorted(t.start for t in loop)[1], max(t.end for t in loop)
        waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")
        found = dict.fromkeys(waits, 0)
        for event in events:
            if event.name in found and begin <= event.time_range.start <= end:
                found[event.name] += 1
        if save is not None:
            trace.export_chrome_trace(str(save))
        return found

    plain = count(lambda: s.latents([0], steps=4))

    def captured() -> None:
        with capture(s.pipe, s.post_blocks, range(1, 5), s.tokens(300)):
            s.latents([0], steps=4)

    captured()
    mine = count(captured, out.folder / "capture_trace.json.gz")
    for name in plain:
        out.add("synchronisation", f"{name} in the step loop, plain", plain[name])
        out.add("synchronisation", f"{name} in the step loop, capture", mine[name])


def replay(s: Setup, out: Results) -> None:
    """Is a picture made again the same picture?"""
    first = s.latents([0])
    with capture(s.pipe, s.post_blocks, s.post_timesteps, s.tokens(300)) as taken:
        hooked = s.latents([0])
    with capture(s.pipe, s.post_blocks, s.post_timesteps, s.tokens(300)) as second:
        s.latents([0])
    out.add("replay", "same seed twice, batch 1", s.compare(first, s.latents([0])))
    out.add("replay", "with and without capture", s.compare(first, hooked))
    out.add("replay", "captured rows twice", all(torch.equal(taken[cell], second[cell]) for cell in taken))
    out.add("replay", "captured rows are finite", not taken.nonfinite())
    out.add("replay", "largest captured magnitude", max(float(taken[cell].abs().max()) for cell in taken))
    torch.save(first.cpu(), s.scratch / "first.pt")
    short = max(4, s.spec.steps // 2)  # batches of four take four times as long
    four = s.latents([0, 1, 2, 3], batch=4, steps=short)
    again = s.latents([0, 1, 2, 3], batch=4, steps=short)
    out.add("replay", "batch 4 twice", s.compare(four, again), "", f"{short} steps")
    alone = s.latents([2], batch=4, steps=short)
    out.add("replay", "one image of a batch of 4, made again in a filled-up batch", s.compare(four[2:3], alone))
    out.add("replay", "batch 4 against batch 1", s.compare(four[:1], s.latents([0], steps=short)))


def other_process(s: Setup, out: Results) -> None:
    """The same seed in a second process, with the weights made anew."""
    command = [sys.executable, __file__, "--out", str(out.folder), "--one-image", str(s.scratch / "second.pt")]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    start = time.perf_counter()
    done = subprocess.run(command + ["--rehearse"] * s.rehearse, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    first, second = (torch.load(s.scratch / f"{name}.pt") for name in ("first", "second"))
    took = f"{time.perf_counter() - start:.0f} s with its start"
    out.add("replay", "across two processes, batch 1", s.compare(first, second), "", took)


def storage(s: Setup, out: Results) -> None:
    """An image's file against plain writing, and beside the next image's generation."""
    from flux_gpu_storage import store

    store(s, lambda what, value, unit="", note="": out.add("storage", what, value, unit, note), seconds)


def watch(s: Setup, out: Results) -> None:
    """Scores of every token, previews each step, previews each fourth step."""
    from flux_gpu_watch import previews, scores

    plain, ways = (lambda: s.latents([0])), scores(s)
    first = plain()
    out.add("watch", "with and without watch", s.compare(first, ways["48 cells"]()))
    report_ratios(out, "watch", interleaved({"plain": plain, **ways}, s.rounds))
    report_ratios(out, "watch", interleaved({"plain": plain, **previews(s)}, 2))


def compiled(s: Setup, out: Results) -> None:
    """The same under compile_repeated_blocks."""
    transformer = s.pipe.transformer
    eager = s.latents([0])
    transformer.compile_repeated_blocks(**({"backend": "eager"} if s.rehearse else {"fullgraph": True}))
    try:
        out.add("compiled", "first image, with compilation", seconds(lambda: s.latents([0])), "s")
        plain = s.latents([0])
        chosen = {name: run for name, run in variants(s).items() if "80" not in name}
        with capture(s.pipe, s.post_blocks, s.post_timesteps, s.tokens(300)):
            hooked = s.latents([0])
        out.add("compiled", "with and without capture", s.compare(plain, hooked))
        out.add("compiled", "against eager", s.compare(plain, eager))
        report_ratios(out, "compiled", interleaved(chosen, min(3, s.rounds)))
    finally:
        for module in transformer.modules():
            module._compiled_call_impl = None


def nnsight(s: Setup, out: Results) -> None:
    """nnsight's tracing of the same cells, where it is installed."""
    from flux_gpu_nnsight import traced

    run = traced(s)
    run()
    report_ratios(out, "nnsight", interleaved({"plain": lambda: s.latents([0]), "48 cells, 300 tokens": run}, 2))


def fitting(s: Setup, out: Results) -> None:
    """Probes and measures on a synthetic cache of the study's size, on the GPU and on the CPU."""
    from flux_gpu_fitting import fit

    s.free()
    fit(s.scratch, s.rehearse, lambda what, value, unit="", note="": out.add("fitting", what, value, unit, note))


SECTIONS: dict[str, tuple[Callable[[Setup, Results], None], int]] = {
    "generation": (generation, 150),
    "synchronisation": (synchronisation, 15),
    "memory": (memory, 40),
    "replay": (replay, 80),
    "storage": (storage, 25),
    "watch": (watch, 80),
    "compiled": (compiled, 100),
    "other_process": (other_process, 60),
    "keep_everything": (keep_everything, 40),
    "nnsight": (nnsight, 40),
    "fitting": (fitting, 150),
}
"""In order, with the seconds that must be left for a section to begin."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--budget", type=float, default=560, help="seconds for everything")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--one-image", type=Path, help="make one image, save its latent, and stop")
    options = parser.parse_args()
    begin = time.perf_counter()
    wanted = [name for name in options.only.split(",") if name]
    unknown = set(wanted) - set(SECTIONS)
    if unknown:
        parser.error(f"no sections {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("no GPU was found: use --rehearse")
    # Seen on one H100 with torch 2.11: illegal memory accesses in cuDNN's attention, which would end all sections.
    torch.backends.cuda.enable_cudnn_sdp(False)
    setup = build(options.out, options.rehearse, pipeline=wanted != ["fitting"])
    if options.one_image is not None:
        torch.save(setup.latents([0]).cpu(), options.one_image)
        return
    device = "CPU" if options.rehearse else torch.cuda.get_device_name()
    about = {
        "device": device,
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        "command": "python " + " ".join(sys.argv),
        "model": setup.description,
        "attention": "scaled_dot_product_attention without cuDNN's kernel",
    }
    out = Results(options.out, about)
    out.add("start", "model made", time.perf_counter() - begin, "s")
    for name in wanted:
        section, needs = SECTIONS[name]
        left = options.budget - (time.perf_counter() - begin)
        if left < needs and not options.rehearse:
            out.add(name, "not run", f"{left:.0f} s were left, it needs {needs}")
            continue
        start = time.perf_counter()
        try:
            section(setup, out)
        except Exception as error:
            traceback.print_exc()
            out.add(name, "failed", f"{type(error).__name__}: {str(error)[:300]}".replace("\n", " "))
        print(f"--- {name}: {time.perf_counter() - start:.0f} s", flush=True)
        out.save()
    out.add("end", "everything", time.perf_counter() - begin, "s")
    out.save()


if __name__ == "__main__":
    main()
