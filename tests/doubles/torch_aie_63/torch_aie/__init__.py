"""The strict double under its first name: torch_aie 6.3.rc2. See ../../README.md."""

from strict_aie import api

api.install(globals(), __name__, "6.3.rc2+strict.double", successor=False)
