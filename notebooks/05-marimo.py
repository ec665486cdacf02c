import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium")


@app.cell
def _():
    import marimo as mo

    from modeldeck import ModelBrowser

    return ModelBrowser, mo


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # modeldeck in one minute

    Open a card with **Show files**, press **Download** beside a variant, and then **Load**. The first line of the
    widget shows which Hub it browses.
    """)
    return


@app.cell
def _(ModelBrowser, mo):
    deck = mo.ui.anywidget(ModelBrowser("smollm2"))
    deck
    return (deck,)


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    The model is `deck.llm` in every other cell. These cells run again when a model is loaded or unloaded.
    """)
    return


@app.cell
def _(deck, mo):
    mo.stop(deck.llm is None, mo.md("*Press **Load** in the widget.*"))
    answer = deck.llm.create_chat_completion(
        messages=[{"role": "user", "content": "What is gravity?"}],
        max_tokens=48,
        temperature=0.0,
    )
    mo.md(answer["choices"][0]["message"]["content"])
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    **Unload** in the widget frees the memory.
    """)
    return


if __name__ == "__main__":
    app.run()
