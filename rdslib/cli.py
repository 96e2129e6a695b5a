"""The `rds` command: how it starts, and how it ends."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

from rdslib.errors import UserError, plain

# A full disk or a folder without rights, wherever it was met; other errors of the system are faults of ours.
OF_THE_USER = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
# Exit codes of what is stopped by Ctrl-C, and by `kill` or a batch system.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main() -> None:
    """Run the command; print what a user can correct as one line, with exit code 2."""
    # Python processes that are started from here run no file of the working folder for a module's name.
    os.environ["PYTHONSAFEPATH"] = "1"
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Within, since it takes a second, in which it may be stopped.
        from rdslib.commands.app import app

        app()
    except UserError as error:
        _end(error, 2)
    except OSError as error:
        if error.errno not in OF_THE_USER:
            raise
        where = error.filename or "RDSLIB_HOME or the output's folder"
        _end(f"{where}: {error.strerror}; correct that, and run the same again to go on", 2)
    except Exception as error:
        from rdslib.methods import plugin_line

        if (where := plugin_line(error)) is None:
            raise
        _end(f"{where}: {type(error).__name__}: {error}; correct this line of your method", 2)
    except KeyboardInterrupt:
        _end("stopped; run the same command again to go on", INTERRUPTED)
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, TERMINATED):  # typer makes an exit of a KeyboardInterrupt
            _end("stopped; run the same command again to go on", int(ended.code))
        raise


def _terminate(*_: object) -> NoReturn:
    """End as by Ctrl-C, so that temporary files and helping processes go."""
    sys.exit(TERMINATED)


def _end(text: object, code: int) -> NoReturn:
    print(f"rds: {plain(text)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
