"""Run every symbolic script: `python theory` derives, checks and prints all of them."""

import runpy
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the scripts beside this file one after the other; 1 if one of them fails."""
    failed = []
    for path in sorted(Path(__file__).resolve().parent.glob("[!_]*.py")):
        start = time.perf_counter()
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as done:
            if done.code:
                failed.append(path.name)
        print(f"theory/{path.name}: {time.perf_counter() - start:.1f} s\n", flush=True)
    print(f"FAILED: {', '.join(failed)}" if failed else "Every script holds.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
