import os

from wit_world import exports


class Greeting(exports.Greeting):
    def greet(self, name: str) -> str:
        return f"{os.environ.get('GREETING', 'Hello')}, {name}, from Python"
