from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, OutgoingBody, OutgoingResponse, ResponseOutparam


requests = 0


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request, response_out):
        global requests
        requests += 1
        path = request.path_with_query()
        counts = path.startswith("/count")
        found = path == "/" or counts
        response = OutgoingResponse(Fields())
        response.set_status_code(200 if found else 404)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            text = "Hello from Python\n" if found else "no such path\n"
            if counts:
                text = f"{requests}\n"
            stream.blocking_write_and_flush(text.encode())
        OutgoingBody.finish(body, None)
