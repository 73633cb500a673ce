"""A gRPC server without generated code, which says what the mesh has made of a call."""

from concurrent import futures

import grpc


def ask(request, context):
    asked = dict(context.invocation_metadata()).get("x-asked", "nothing")
    context.set_trailing_metadata((("asked", asked),))
    return b"42" if request == b"6 * 7" else b"?"


class Answers(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(ask) if details.method == "/questions.Answers/Ask" else None


server = grpc.server(futures.ThreadPoolExecutor(max_workers=10), handlers=[Answers()])
server.add_insecure_port("[::]:50051")
server.start()
server.wait_for_termination()
