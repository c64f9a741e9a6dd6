"""The strict double under its second name: mindietorch 1.0.0. See ../../README.md."""

from strict_aie import api

api.install(globals(), __name__, "1.0.0+strict.double", successor=True)
