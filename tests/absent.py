"""`iecl_jax.main` as it runs where packages are not installed: `absent.py PACKAGE,... FLAG ...`."""

import sys

from absl import app


class Without:
    """A finder of modules that does not find those of some packages."""

    def __init__(self, finder, packages):
        self._finder, self._packages = finder, packages

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self._packages:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


if __name__ == "__main__":
    absent = sys.argv.pop(1).split(",")
    sys.meta_path = [Without(finder, absent) for finder in sys.meta_path]

    from iecl_jax import main

    app.run(main.run, flags_parser=main.parse)
