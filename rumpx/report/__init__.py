"""Reports of a run: each module draws a Summary or a Record and opens no connection."""
