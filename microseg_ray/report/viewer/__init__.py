"""The web page of a run or of an archive: look at micrographs and masks, and label them.

The server runs on 127.0.0.1 and needs the extra `viewer` (starlette, uvicorn). The page's files are in `static/`; nothing is
loaded from anywhere else.
"""
