"""Text forms of the three levels, and their parsers: ``show(parse(text))`` gives the same text."""
