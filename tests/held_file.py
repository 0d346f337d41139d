"""A file whose readers wait: what reads it stops at a known place, however fast the machine is."""

import os


class HeldFile:
    """A named pipe in the place of a file, until it is released. Its readers must read it from its begin to its end."""

    def __init__(self, path):
        self._path = path
        self._file, self._pipe = (path.with_name(f"{path.name}.{name}") for name in ("held", "pipe"))
        path.rename(self._file)
        os.mkfifo(self._pipe)
        os.link(self._pipe, path)

    def release(self):
        """Give the file back, and its content to those that wait."""
        content = self._file.read_bytes()
        self._file.replace(self._path)
        try:
            readers = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody waits
            readers = None
        self._pipe.unlink()
        if readers is not None:
            os.set_blocking(readers, True)
            with os.fdopen(readers, "wb") as file:
                file.write(content)


def hold_the_model(folder, name="efficientnet_lite0"):
    """Hold all that load a model in a plant, whose folder of models becomes one of links. Return the `HeldFile`."""
    models = folder / "models"
    if models.is_symlink():
        shared = models.resolve()
        models.unlink()
        models.mkdir()
        for path in shared.iterdir():
            (models / path.name).symlink_to(path)
    return HeldFile(models / f"{name}.json")
