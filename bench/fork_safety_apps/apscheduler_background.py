import os

from apscheduler.schedulers.background import BackgroundScheduler
from telling import tell

scheduler = BackgroundScheduler(job_defaults={"misfire_grace_time": None})
if "ADVISED" not in os.environ:
    scheduler.start()
post_fork = scheduler.start


def answer(token):
    scheduler.add_job(tell, args=[token])
    return token
