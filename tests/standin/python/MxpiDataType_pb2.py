"""The messages of the SDK that mindx_host uses, serialised by pickle because only the stand-in reads them."""

import pickle


class _Repeated(list):
    def __init__(self, kind):
        super().__init__()
        self._kind = kind

    def add(self):
        self.append(self._kind())
        return self[-1]


class MxpiTensor:
    def __init__(self):
        self.tensorShape, self.tensorDataType, self.dataStr, self.tensorDataSize = [], 0, b"", 0


class MxpiTensorPackage:
    def __init__(self):
        self.tensorVec = _Repeated(MxpiTensor)


class MxpiTensorPackageList:
    def __init__(self):
        self.tensorPackageVec = _Repeated(MxpiTensorPackage)

    def SerializeToString(self):
        packages = [[vars(tensor) for tensor in package.tensorVec] for package in self.tensorPackageVec]
        return pickle.dumps(packages)

    def ParseFromString(self, content):
        for package in pickle.loads(content):
            new_package = self.tensorPackageVec.add()
            for fields in package:
                vars(new_package.tensorVec.add()).update(fields)
