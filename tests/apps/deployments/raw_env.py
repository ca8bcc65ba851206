# The app's environment comes from here, not from the unit.
workers = 2
raw_env = ["SHOP_SETTINGS=shop.production", "SHOP_SECRET=a=b", "TZ=UTC"]
proc_name = "shop"
max_requests = 0
limit_request_line = 8190
forwarded_allow_ips = "*"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
