"""The services behind `tmr serve` and `tmr mcp`, from the client inwards:

http         connections, with limits on slow clients
middleware   access control, rates, sizes, headers, errors
app          the routes of API and page
mcp          the same API as tools of an agent, on standard input and output
page         the page's address as a query, its templates
metrics      what Prometheus reads
api          what the API answers, whatever carries it
schemas      what the API takes and returns, errors among it
engine       the model, the library and the drawings, each in threads with a bounded queue
options      the options that both share
"""
