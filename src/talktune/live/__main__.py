"""`python -m talktune.live`: the host that judges and learns, as the server starts it.

The first line of its stdin is JSON: `config`, the whole tree, and `key`, without which it answers nobody. Arguments
and the environment of a process are no place for either: the tree may hold a database's password.
"""

import gc
import json
import os
import sys
import warnings

from talktune.config import config_from_json
from talktune.errors import UserError
from talktune.serve.keys import LOCAL_USER, Keys
from talktune.terminal import complain, log_to_stderr


def main() -> None:
    """Run it; a user's mistake is one sentence."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log_to_stderr()
    # What is loaded stays: to look for garbage among it takes a fifth of the start, and a while ever after.
    gc.disable()
    from talktune.live.roles import run_host

    gc.freeze()
    gc.enable()
    try:
        line = sys.stdin.buffer.readline()
        if not line:
            raise UserError("`talktune serve` starts this, and says on its stdin what it is to do.")
        said = json.loads(line)
        run_host(config_from_json(said["config"]), Keys({said["key"]: LOCAL_USER}))
    except UserError as error:
        complain(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
