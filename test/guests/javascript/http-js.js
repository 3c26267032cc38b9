import {
    Fields,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
} from "wasi:http/types@0.2.12";

export const incomingHandler = {
    handle(request, out) {
        const found = request.pathWithQuery() === "/";
        const response = new OutgoingResponse(new Fields());
        response.setStatusCode(found ? 200 : 404);
        const body = response.body();
        ResponseOutparam.set(out, { tag: "ok", val: response });
        const stream = body.write();
        const text = found ? "Hello from JavaScript\n" : "no such path\n";
        stream.blockingWriteAndFlush(new TextEncoder().encode(text));
        stream[Symbol.dispose]();
        OutgoingBody.finish(body, undefined);
    },
};
