import celery

app = celery.Celery(broker="memory://")


@app.task
def note(token):
    pass


def answer(token):
    note.delay(token)
    return token


answer("imported")
