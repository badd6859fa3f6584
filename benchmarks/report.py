"""The page of a report about 10,000 units in five networks: what it weighs, and how long one waits for it.

Run with ``make bench``; it needs Chromium. Weights and samples are random, because speed does not depend on them. The
page is loaded several times, each time in a browser of its own, without a screen: first paint and the drawing of all
figures count from the beginning of a load; the answer to a brush, from a pointer's move to the list of units below it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import gradembed as ge
from tests._browser import browser

NETWORKS, WIDTH, SAMPLES, LOADS = 5, 2000, 500, 7
MOVES = 12  # of the pointer, in a load
DRAWN = "['layers', 'matrix', 'pair', 'branches', 'embedding'].every(id => document.getElementById(id).dataset.drawn)"
NOTE = """(() => { let moved = 0; window.answers = [];
    document.addEventListener('pointermove', () => { moved = performance.now(); }, true);
    new MutationObserver(() => answers.push(performance.now() - moved)).observe(
        document.getElementById('brushed'), { childList: true }); })()"""


def write(path: Path, width: int, n: int) -> dict[str, float]:
    """Write a page about networks that were never trained.

    Args:
        path: Its file.
        width: Hidden units of each network.
        n: Samples.

    Returns:
        Seconds by the clock and of the processor, and megabytes.
    """
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    networks = [ge.MLP([4, width, 4], seed=seed) for seed in range(NETWORKS)]
    options: dict[str, Any] = {"others": networks[1:], "n_untrained": 1, "max_units": width, "max_samples": n}
    clock, processor = time.perf_counter(), time.process_time()
    ge.report(networks[0], x, path=path, n_bootstrap=0, **options)
    seconds = {"seconds": time.perf_counter() - clock, "of the processor": time.process_time() - processor}
    return seconds | {"MB": path.stat().st_size / 1e6}


def look(path: Path) -> dict[str, float]:
    """Load a page and drag a brush over its embedding.

    Returns:
        Units, milliseconds, and how much went wrong in the browser's console.
    """
    with browser() as page:
        page.open(path)
        page.wait(DRAWN)
        drawn = page.evaluate("performance.now()")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        plot = page.tab.locator("#embedding canvas, #embedding svg").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        page.evaluate(NOTE)
        for i in range(MOVES):
            page.tab.mouse.move(box["x"] + box["width"] * (0.3 + 0.03 * i), box["y"] + 80 + 8 * i)
            page.tab.wait_for_timeout(30)
            if i == 0:
                page.tab.mouse.down()
        page.tab.mouse.up()
        page.wait(
            "answers.length >= 5 && document.getElementById('brushed').textContent.includes(' units in the area (net')"
        )
        answers = pd.Series(page.evaluate("answers"))
        units = page.evaluate("JSON.parse(document.getElementById('data').textContent).units.name.length")
        told = {"units": units, "first paint": paint, "all drawn": drawn}
        return told | {"brush": answers.median(), "slowest": answers.max(), "errors": len(page.errors)}


def main() -> None:
    """Measure and print."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; a busy machine moves all of this\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        pages = {"first of a process": (10, 50), "small": (10, 50), "large": (WIDTH, SAMPLES)}
        table = pd.DataFrame({name: write(path, *sizes) for name, sizes in pages.items()}).T
        print(f"Writing a page about {NETWORKS} networks\n{table.round(2).to_string()}\n")
        loads = pd.DataFrame([look(path) for _ in range(LOADS)])
    print(f"The large one in a browser, {LOADS} loads, milliseconds")
    print(loads.agg(["median", "max"]).round(0).astype(int).to_string())


if __name__ == "__main__":
    main()
