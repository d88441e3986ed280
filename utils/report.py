"""`python -m utils.report`: deprecated name of `python -m report`, until the next release."""

import os
import sys

if __name__ == "__main__":
    print("python -m utils.report is now called python -m report", file=sys.stderr)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "report", *sys.argv[1:]])
