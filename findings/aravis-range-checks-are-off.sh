#!/bin/sh
# Aravis 0.8.26 (Debian 12): a camera takes settings outside of the bounds that it states itself, and they read back as
# they were set. The check of ranges is off unless arv_device_set_range_check_policy enables it. A script that sets an
# exposure and reads it back sees nothing wrong.
#
# Seen with the camera simulated in the library: exposure 5 us with the bounds 10 to 10,000,000, gain 50 with 0 to 10,
# and a region 5,000 pixels wide on a sensor of 2,048 are all accepted and read back. With the check enabled, the same
# exposure is refused with its minimum.
#
# Patchline compares each setting with the camera's bounds before it writes it (docs/camera.md).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq libaravis-0.8-0=0.8.26-1 gir1.2-aravis-0.8=0.8.26-1 python3-gi=3.42.2-3+b1 \
    libgirepository-1.0-1=1.74.0-3 gir1.2-glib-2.0=1.74.0-3 libglib2.0-0 libusb-1.0-0 libxml2 > /dev/null
for package in *.deb; do dpkg -x "$package" root; done
libraries="$folder/root/usr/lib/$(uname -m)-linux-gnu"
LD_LIBRARY_PATH="$libraries:$folder/root/lib/$(uname -m)-linux-gnu" GI_TYPELIB_PATH="$libraries/girepository-1.0" \
    PYTHONPATH="$folder/root/usr/lib/python3/dist-packages" /usr/bin/python3 - <<'PYTHON'
import sys

import gi

gi.require_version("Aravis", "0.8")
from gi.repository import Aravis, GLib

Aravis.enable_interface("Fake")
camera = Aravis.Camera.new("Fake_1")
bounds, sensor = camera.get_exposure_time_bounds(), camera.get_sensor_size()
camera.set_exposure_time(bounds.min / 2)
camera.set_gain(5 * camera.get_gain_bounds().max)
camera.set_region(0, 0, 5000, 100)
print("exposure", camera.get_exposure_time(), "of", bounds.min, "to", bounds.max)
print("gain", camera.get_gain(), "of at most", camera.get_gain_bounds().max)
print("width", camera.get_region().width, "on a sensor of", sensor.width)
taken = camera.get_exposure_time() < bounds.min and camera.get_gain() > 10 and camera.get_region().width > sensor.width

camera.get_device().set_range_check_policy(Aravis.RangeCheckPolicy.ENABLE)
try:
    camera.set_exposure_time(bounds.min / 2)
    refused = False
except GLib.Error as error:
    print("with the check enabled:", error.message)
    refused = True
sys.exit(0 if taken and refused else 1)
PYTHON
