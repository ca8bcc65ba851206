from multiprocessing import shared_memory

held = shared_memory.SharedMemory(create=True, size=100)
held.unlink()


def answer(token):
    block = shared_memory.SharedMemory(create=True, size=100)
    block.buf[: len(token)] = token.encode()
    said = bytes(block.buf[: len(token)]).decode()
    block.close()
    block.unlink()
    return said
