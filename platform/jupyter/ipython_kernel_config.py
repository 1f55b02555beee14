# The kernel's note on its TCP connection is no news to a learner on loopback.
c.IPKernelApp.log_level = 40  # noqa: F821
