"""Answers what it is asked; prints its port, and the names of the spans that it is given."""

from concurrent.futures import ThreadPoolExecutor

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        def echo(request, context):
            if details.method == "/case/echo":
                return request
            print(request.decode("latin-1").replace("\n", " "), flush=True)
            return b""

        return grpc.unary_unary_rpc_method_handler(echo)


server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
