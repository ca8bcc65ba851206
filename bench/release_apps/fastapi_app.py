"""The catalogue as a FastAPI app."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from . import shop

app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
def index() -> str:
    return shop.page()
