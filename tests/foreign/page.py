"""Opens the status page in Chromium as a phone does, with and without JavaScript, and prints what it found as a line of JSON each.

Usage: page.py CHROMIUM URL USER [PICTURE]
"""

import json
import sys

from playwright.sync_api import sync_playwright

PHONE = {"width": 390, "height": 844}
TOO_WIDE = """[...document.querySelectorAll('*')]
    .filter(element => element.getBoundingClientRect().right > innerWidth + 0.5).map(element => element.outerHTML)"""


def visit(browser, url, user, javascript):
    context = browser.new_context(java_script_enabled=javascript, viewport=PHONE, is_mobile=True, has_touch=True)
    page = context.new_page()
    asked, complaints, too_wide = [], [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(url)
    summary = page.inner_text("h1")
    too_wide += page.evaluate(TOO_WIDE)
    # The page reloads itself.
    page.wait_for_event("load", timeout=60_000)
    page.get_by_role("button", name="Look up a user").click()
    page.fill("input[name=user]", user)
    page.fill("input[name=account]", "@TOA#_a+b c")
    page.get_by_role("button", name="Look up", exact=True).click()
    too_wide += page.evaluate(TOO_WIDE)
    found = {
        "javascript": javascript,
        "summary": summary,
        "answer": page.inner_text("form + p"),
        "elements": page.locator("form + p i").count(),
        "width": page.evaluate("document.documentElement.scrollWidth"),
        "too_wide": too_wide,
        "asked": asked,
        "complaints": complaints,
    }
    context.close()
    return found


def main():
    chromium, url, user = sys.argv[1:4]
    with sync_playwright() as playwright:
        # The tests may run as root.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if len(sys.argv) > 4:
            page = browser.new_page(viewport={"width": 720, "height": 400})
            page.goto(url)
            page.screenshot(path=sys.argv[4], full_page=True)
        else:
            for javascript in (True, False):
                print(json.dumps(visit(browser, url, user, javascript)))
        browser.close()


main()
