#!/bin/sh
# pypylon 26.9: the camera emulator takes its frames from the image files of a folder (ImageFileMode, ImageFilename). It
# reads a folder of one file once: frames show that image after the file was replaced. With two files it reads a file
# anew for each frame. A test that puts a picture before the camera judges the first part for ever, and passes if all of
# its parts look alike.
#
# Needs 240 MB for a time. Seen, the grey value of the file at each of four triggers, and of the frame:
#   10, 200, 50, 120 in the file; one file: 10, 10, 10, 10 in the frames; two files: 10, 200, 50, 120
#
# Patchline's simulated plant gives the emulator two names of one picture (docs/decisions.md, 153).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pypylon==26.9 numpy==2.4.6 pillow==13.0.0
PYLON_CAMEMU=1 "$folder/env/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image
from pypylon import pylon

VALUES = (10, 200, 50, 120)


def put(folder, names, value):
    for name in names:
        new = folder.with_name(f"{folder.name}.png")
        Image.new("L", (64, 64), value).save(new)
        new.rename(folder / name)


def frames(folder, names):
    folder.mkdir()
    put(folder, names, VALUES[0])
    camera = pylon.InstantCamera(pylon.TlFactory.GetInstance().CreateFirstDevice())
    waits = pylon.SoftwareTriggerConfiguration()
    camera.RegisterConfiguration(waits, pylon.RegistrationMode_ReplaceAll, pylon.Cleanup_Delete)
    camera.Open()
    camera.TestImageSelector.Value, camera.ImageFileMode.Value = "Off", "On"
    camera.ImageFilename.Value = str(folder)
    camera.Width.Value, camera.Height.Value, camera.PixelFormat.Value = 64, 64, "Mono8"
    camera.StartGrabbing(pylon.GrabStrategy_OneByOne)
    seen = []
    for value in VALUES:
        put(folder, names, value)
        camera.WaitForFrameTriggerReady(5000, pylon.TimeoutHandling_ThrowException)
        camera.ExecuteSoftwareTrigger()
        frame = camera.RetrieveResult(5000)
        seen.append(int(frame.Array[0, 0]))
        frame.Release()
    camera.StopGrabbing()
    camera.Close()
    return seen


one = frames(Path(sys.argv[1], "one"), ["a.png"])
two = frames(Path(sys.argv[1], "two"), ["a.png", "b.png"])
print(f"in the file {VALUES}; frames of a folder with one file {one}, with two {two}")
sys.exit(0 if one == [VALUES[0]] * 4 and two == list(VALUES) else 1)
PYTHON
