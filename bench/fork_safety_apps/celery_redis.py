import os

import celery

app = celery.Celery(broker=f"redis://127.0.0.1:{os.environ['REDIS_PORT']}/1")


@app.task
def note(token):
    pass


def answer(token):
    note.delay(token)
    return token


answer("imported")
