"""`python -m talktune.live CONFIG`: the host that judges and learns; CONFIG is the whole tree as JSON."""

import gc
import logging
import os
import sys
import warnings

from talktune.config import config_from_json
from talktune.errors import UserError


def main() -> None:
    """Run it; a user's mistake is one sentence."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # What is loaded stays: to look for garbage among it takes a fifth of the start, and a while ever after.
    gc.disable()
    from talktune.live.roles import run_host

    gc.freeze()
    gc.enable()
    try:
        run_host(config_from_json(sys.argv[1]))
    except UserError as error:
        print(f"talktune: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
