"JupyterLab of the platform: on loopback, with a password of its own, and nothing of it in its log."

from pathlib import Path

c = get_config()  # noqa: F821
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.log_level = "WARN"  # what it says at INFO has the password in an address
c.IdentityProvider.token = Path("platform/jupyterlab/run_env/password").read_text(encoding="utf-8").strip()
c.LabApp.default_url = "/lab/tree/notebooks/00_start_here.ipynb"
