import os
import sys

from wit_world import exports


class Run(exports.Run):
    def run(self):
        print("Hello from Python")
        print("arguments:", *sys.argv[1:])
        print("GREETING:", os.environ.get("GREETING", "none"))
        if len(sys.argv) > 1:
            with open(sys.argv[1]) as file:
                print(file.read(), end="")
