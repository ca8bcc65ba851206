"""The catalogue as a Django app."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

from . import shop

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="for a measurement",
                   MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
                   LOGGING_CONFIG=None)
django.setup()


def index(request: HttpRequest, part: str = "") -> HttpResponse:
    return HttpResponse(shop.page(), content_type="text/plain")


urlpatterns: list[Any] = [path("", index)]
app = WSGIHandler()
