import subprocess
import sys


def test_reports_leave_the_users_pyplot_alone():
    check = "import sys, monai_cobot.reports; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
