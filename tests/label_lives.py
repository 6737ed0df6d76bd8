"""A process that gives birth to labelling servers: each life is a fork, so that a hundred of them take seconds.

python tests/label_lives.py STUDY PORT     each line read starts a server and prints its process id
"""

import os
import signal
import sys

import uvicorn
import uvicorn.protocols.http.auto  # imported before the forks, not in each of them

from badhands.label.app import create_app
from badhands.label.desk import Desk
from badhands.label.guard import Access
from badhands.study.study import Study


def main(root: str, port: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need no burial
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            uvicorn.run(create_app(Desk(Study(root)), Access()), port=port, log_level="error", lifespan="off")
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
