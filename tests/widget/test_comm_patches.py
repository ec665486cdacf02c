"""What is done to a real kernel so that a widget's messages and its cells do not get in each other's way."""

import os
import random
from collections.abc import Iterator

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from tests.waiting import PATIENCE_SECONDS
from tools.older import older_variables

CELLS = 300
LONGEST_CELL_MS = 12

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(params=["7.3.0", "newest"])
def client(request: pytest.FixtureRequest) -> Iterator[BlockingKernelClient]:
    older = {} if request.param == "newest" else older_variables(f"ipykernel-{request.param}")
    manager, client = start_new_kernel(env={**os.environ, **older})
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client: BlockingKernelClient, code: str) -> str:
    printed: list[str] = []
    reply = client.execute_interactive(
        code, timeout=PATIENCE_SECONDS, output_hook=lambda message: printed.append(message["content"].get("text", ""))
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed).strip()


def test_a_message_that_comes_when_a_cell_ends_does_not_hang_the_kernel(client: BlockingKernelClient) -> None:
    """Without the guard ipykernel 7.3 hangs after some 10 to 20 cells of these."""
    comm_id = run(
        client,
        "from comm import create_comm\n"
        "from modeldeck.widget.comm_patches import prepare_comm\n"
        "comm = create_comm(target_name='test')\n"
        "comm.on_msg(lambda message: None)\n"
        "prepare_comm(comm)\n"
        "print(comm.comm_id)",
    )
    moment = random.Random(1)
    for _ in range(CELLS):
        cell = client.execute("pass")
        client.shell_channel.socket.poll(moment.randrange(LONGEST_CELL_MS))
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": comm_id, "data": {}}))
        while client.get_shell_msg(timeout=PATIENCE_SECONDS)["parent_header"]["msg_id"] != cell:
            pass
