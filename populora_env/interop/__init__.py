"""To and from other libraries; each module needs the library it is called after."""
