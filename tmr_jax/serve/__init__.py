"""The service behind `tmr serve`, from the client inwards:

http         connections, with limits on slow clients
middleware   access control, rates, sizes, headers, errors
app          the routes of API and page
schemas      what the API takes and returns, errors among it
page         the page's address as a query, its templates
engine       the model, the library and the drawings, each in threads with a bounded queue; metrics
"""
