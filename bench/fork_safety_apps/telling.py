"""How a case tells the bench something that is to arrive there."""

import os
import urllib.request


def tell(text):
    urllib.request.urlopen(os.environ["SINK"] + "/told", data=text.encode(), timeout=10).read()
