# Nothing can be written but below /dev/shm and what is mounted for it.
workers = 2
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
errorlog = "-"


def on_starting(server):
    try:
        open("here", "w").close()
    except OSError as error:
        server.read_only = error.strerror


def post_fork(server, worker):
    with open("run/found", "a") as found:
        found.write(server.read_only + "\n")
