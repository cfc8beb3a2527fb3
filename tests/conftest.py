"""For all tests: Hypothesis measures no time, since no test may depend on how busy the machine is."""

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
