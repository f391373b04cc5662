emit_body = None
