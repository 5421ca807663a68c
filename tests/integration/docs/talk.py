"""Talks, for the sessions of the documentation.

    talk.py echo PORT            a server that sends back what it gets
    talk.py talk PORT N...       a client for each N, all held open: N lines of 11 bytes, each sent after
                                 the answer to the one before; then it prints `said`, and stays
    talk.py say PORT N           one such client, that ends
"""

import asyncio
import sys

LINE = b"0123456789\n"


async def echo(port):
    async def serve(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()
        except ConnectionError:
            # `mux kill`.
            pass

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print("listening", flush=True)
    await server.serve_forever()


async def client(port, lines):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(lines):
        writer.write(LINE)
        assert await reader.readexactly(len(LINE)) == LINE
    return reader, writer


async def talk(port, *counts):
    clients = [await client(port, lines) for lines in counts]
    print("said", flush=True)
    await asyncio.Event().wait()
    return clients


async def say(port, lines):
    reader, writer = await client(port, lines)
    writer.write_eof()
    assert await reader.read() == b""


what, *numbers = sys.argv[1:]
asyncio.run({"echo": echo, "talk": talk, "say": say}[what](*map(int, numbers)))
