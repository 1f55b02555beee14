"JupyterLab of the platform: on loopback, with a password of its own, and nothing of it in its log. A container says otherwise."

import os
from pathlib import Path

c = get_config()  # noqa: F821
keeps = Path(os.environ.get("COURSE_ETC", "platform/jupyterlab/run_env"))
c.ServerApp.ip = os.environ.get("COURSE_LISTEN", "127.0.0.1")
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.log_level = "WARN"  # what it says at INFO has the password in an address
c.IdentityProvider.token = (keeps / "password").read_text(encoding="utf-8").strip()
c.LabApp.default_url = "/lab/tree/notebooks/00_start_here.ipynb"
