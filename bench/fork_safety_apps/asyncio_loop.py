import asyncio
import os


def make():
    global loop
    loop = asyncio.new_event_loop()


async def ask(token):
    host, port = os.environ["SINK"].removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /echo/{token} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    said = await reader.read()
    writer.close()
    return said.decode().split("\r\n\r\n")[1]


def answer(token):
    return loop.run_until_complete(asyncio.wait_for(ask(token), 5))


post_fork = make
if "ADVISED" not in os.environ:
    make()
