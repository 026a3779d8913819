"""Which published figures does the package reproduce, by whose protocol, and in what time?

    python analysis/literature.py --list                                # the rows, and what each is
    python analysis/literature.py --row pythae-vae --root data          # static MNIST, 500 passes: under an hour
    python analysis/literature.py --row lucas-maximum lucas-collapse --root data
    timeout 3600 python analysis/literature.py --row burda-iwae-5 --passes 121 --root data

A row is a published quantity with its source and protocol; --row all takes all of them. Each is trained by
`pyrovae.fit`, and its test images are looked at once, after the last pass: where a protocol chooses among passes, a
validation part of the training images does. The table has the published figure, ours with its Monte Carlo error (the
images held fixed) and its error over images, how many of the protocol's passes were made, and the time of the training.
A row is held against the published figure where all of its passes were made and all test images taken, on the
published data, and else reported beside it.

--out has the state of each run and its results. A run that was stopped, by Ctrl-C, by `timeout` or by a crash, goes on
from there with the same command, and a finished one prints what it gave. --passes stops a row earlier, and with more of
them the row goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import literature_images
import literature_linear
from literature_table import Row, descriptions, table

ROWS: dict[str, Row] = {row.name: row for row in [*literature_images.ROWS, *literature_linear.ROWS]}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--row", nargs="+", choices=[*ROWS, "all"], default=[], metavar="NAME", help=", ".join(ROWS))
    made.add_argument("--list", action="store_true", help="say what each row is, and run none")
    made.add_argument("--root", default=None, help="folder of MNIST, in torchvision's layout")
    made.add_argument("--passes", type=int, default=None, help="over the training images, at most; all by default")
    made.add_argument("--images", type=int, default=None, help="of the test images the first so many; all by default")
    made.add_argument("--out", type=Path, default=Path("out") / "literature")
    return made


def main() -> None:
    made = parser()
    options = made.parse_args()
    for name in ("passes", "images"):
        value = getattr(options, name)
        if value is not None and value < 1:
            made.error(f"--{name} must be at least 1, got {value}")
    if not options.row and not options.list:
        made.error("name rows with --row, or --list them")
    names = list(ROWS) if options.list or "all" in options.row else options.row
    rows = [ROWS[name] for name in dict.fromkeys(names)]
    if not options.list:
        asked = (options.root, options.out, options.passes, options.images)
        outcomes = {row.name: row.measure(*asked) for row in rows}
        print(f"\n{table(outcomes)}\n")
    print(descriptions(rows))


if __name__ == "__main__":
    main()
