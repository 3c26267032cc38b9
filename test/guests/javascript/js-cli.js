import { getArguments, getEnvironment } from "wasi:cli/environment@0.2.12";
import { getDirectories } from "wasi:filesystem/preopens@0.2.12";

function read(path) {
    const [[root]] = getDirectories();
    const file = root.openAt({ symlinkFollow: true }, path.replace(/^\/+/, ""), {}, { read: true });
    const decoder = new TextDecoder();
    let contents = "";
    for (let at = 0n, end = false; !end; ) {
        let part;
        [part, end] = file.read(65536n, at);
        contents += decoder.decode(part, { stream: true });
        at += BigInt(part.length);
    }
    return contents;
}

export const run = {
    run() {
        const files = getArguments().slice(1);
        console.log("Hello from JavaScript");
        console.log("arguments:", ...files);
        console.log("GREETING:", new Map(getEnvironment()).get("GREETING") ?? "none");
        if (files.length > 0) {
            console.log(read(files[0]).trimEnd());
        }
    },
};
